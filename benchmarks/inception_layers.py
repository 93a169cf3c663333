"""The other side of benchmarks.bench_inception: PyTorch's convolutions of Inception's layers, with bias and rectifier.

A worker of benchmarks.turns, for an environment with torch, which need not have JAX.
"""

from typing import Any

from benchmarks import turns
from benchmarks.turns import Job, Row

LAYOUTS = ("contiguous_format", "channels_last")


def prepare(settings: Row) -> tuple[Row, dict[str, Job]]:
    """A job a layout.

    Raises:
      ValueError: torch is missing.
    """
    try:
        import torch
    except ImportError as error:
        raise ValueError(f"the comparison needs PyTorch ({error}): pip install torch") from error
    torch.manual_seed(0)
    torch.set_num_threads(turns.threads())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def wait(result: Any) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def job(layout: str) -> Job:
        how = dict(device=device, memory_format=getattr(torch, layout))
        network = [layer_of(torch, layer).to(**how) for layer in settings["layers"]]
        inputs = [torch.randn(settings["batch"], *sizes_of(layer)).to(**how) for layer in settings["layers"]]

        def call() -> Any:
            result = None
            with torch.inference_mode():
                for one, x in zip(network, inputs, strict=True):
                    result = torch.relu_(one(x))
            return result

        return turns.timed(lambda: call, wait)

    jobs = {layout: job(layout) for layout in LAYOUTS}
    return {"torch": torch.__version__, "device": device.type, "threads": torch.get_num_threads()}, jobs


def layer_of(torch: Any, layer: Row) -> Any:
    """One convolution with its bias."""
    padding = tuple(side // 2 for side in layer["size"]) if layer["padding"] == "SAME" else 0
    stride, size = layer["stride"], tuple(layer["size"])
    return torch.nn.Conv2d(layer["input"][2], layer["channels"], size, stride, padding).eval()


def sizes_of(layer: Row) -> tuple[int, int, int]:
    """(C, H, W) of what it is given."""
    height, width, channels = layer["input"]
    return channels, height, width


if __name__ == "__main__":
    turns.serve(prepare)
