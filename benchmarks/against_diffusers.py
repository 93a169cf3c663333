"""The other side of benchmarks.bench: Hugging Face diffusers' UNet2DModel in PyTorch, eager or compiled.

A worker of benchmarks.turns, for an environment with torch and diffusers, which need not have JAX. The training step
does the work of ours: images become float32, are mirrored and noised; the squared error of eps, its gradient, its norm
clipped to 1, Adam, a moving average. PyTorch gets what makes it fast with the same model: fused Adam, one call for all
averages, cuDNN's search, and TensorFloat-32, which XLA takes, too.
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks import turns
from benchmarks.turns import Job, Row

LEARNING_RATE, CLIP_NORM, EMA_DECAY = 2e-4, 1.0, 0.998
INSTALL = "pip install torch diffusers"


class Bench(NamedTuple):
    """What the jobs share.

    Attributes:
      torch: the library.
      model: the U-Net.
      network: the same, or compiled.
      shape: (b, c, h, w) of a batch.
      settings: as they came.
    """

    torch: Any
    model: Any
    network: Any
    shape: tuple[int, ...]
    settings: Row


def prepare(settings: Row) -> tuple[Row, dict[str, Job]]:
    """What this worker says of itself, and its jobs; see `turns.serve`."""
    bench, about = programs(settings)
    return about, jobs(bench)


def programs(settings: Row) -> tuple[Bench, Row]:
    """What the jobs share, and what it is.

    Raises:
      ValueError: a library is missing, or the model has not as many parameters as ours.
    """
    try:
        import diffusers
        import torch
        from diffusers import UNet2DModel
    except (ImportError, RuntimeError) as error:  # diffusers turns what it misses into a RuntimeError
        said = str(error).partition("\n")[0]
        raise ValueError(f"{sys.executable} cannot import diffusers ({said}): {INSTALL} there") from error
    on_gpu = torch.cuda.is_available()
    torch.set_num_threads(turns.threads())
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    network, side = settings["network"], settings["image_size"]
    model = UNet2DModel.from_config({**settings["described"], "sample_size": side}).to("cuda" if on_gpu else "cpu")
    count = sum(parameter.numel() for parameter in model.parameters())
    if count != settings["parameters"]:
        raise ValueError(
            f"UNet2DModel has {count:,} parameters and our network {settings['parameters']:,}: choose another preset"
        )
    if settings["channels_last"]:
        model = model.to(memory_format=torch.channels_last)
    shape = (settings["training"]["batch"], network["image_channels"], side, side)
    about = {"parameters": count, "cores": torch.get_num_threads(), "torch": torch.__version__}
    about |= {"diffusers": diffusers.__version__, "platform": "gpu" if on_gpu else "cpu"}
    about |= {"device": torch.cuda.get_device_name() if on_gpu else "cpu"}
    return Bench(torch, model, torch.compile(model) if settings["compiled"] else model, shape, settings), about


def jobs(bench: Bench) -> dict[str, Job]:
    """All that can be asked for."""
    cuda = bench.torch.cuda
    on_gpu = bench.model.device.type == "cuda"

    def wait(result: Any) -> None:
        if on_gpu:
            cuda.synchronize()

    return {
        "memory": turns.memory(cuda.max_memory_allocated if on_gpu else None),
        "step": turns.timed(lambda: step(bench), wait),
        "forward": turns.timed(lambda: forward(bench), wait),
    }


def said(bench: Bench, x_t: Any, t: Any) -> Any:
    """What the network makes of x_t, in the precision that was asked for."""
    torch, settings = bench.torch, bench.settings
    if settings["channels_last"]:
        x_t = x_t.contiguous(memory_format=torch.channels_last)
    rounded = settings["training"]["activations"] == "bfloat16"
    with torch.autocast(x_t.device.type, torch.bfloat16, enabled=rounded):
        return bench.network(x_t, t, return_dict=False)[0]


def step(bench: Bench) -> Callable[[], Any]:
    """The training step."""
    torch, device, T = bench.torch, bench.model.device, bench.settings["training"]["T"]
    parameters = list(bench.model.parameters())
    averages = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE, fused=True)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, T, dtype=torch.float64), 0)
    signal, noise = (table.sqrt().float().to(device) for table in (alpha_bar, 1 - alpha_bar))
    images = torch.randint(256, bench.shape, dtype=torch.uint8)
    column = (len(images), 1, 1, 1)

    def one() -> Any:
        if not bench.model.training:
            bench.model.train()
        x_0 = images.to(device).float() * (2 / 255) - 1
        x_0 = torch.where(torch.rand(column, device=device) < 0.5, x_0.flip(3), x_0)
        t, eps = torch.randint(T, column[:1], device=device), torch.randn_like(x_0)
        x_t = signal[t].view(column) * x_0 + noise[t].view(column) * eps
        loss = torch.nn.functional.mse_loss(said(bench, x_t, t).float(), eps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1 - EMA_DECAY)
        return loss

    return one


def forward(bench: Bench) -> Callable[[], Any]:
    """A pass of the network."""
    torch, device = bench.torch, bench.model.device
    x_t, t = torch.randn(bench.shape, device=device), torch.arange(bench.shape[0], device=device)

    def one() -> Any:
        if bench.model.training:
            bench.model.eval()
        with torch.inference_mode():
            return said(bench, x_t, t)

    return one


if __name__ == "__main__":
    turns.serve(prepare)
