"""How long a run goes on, when it calls its program, and when it logs, saves and samples: functions of the step."""

from collections.abc import Iterator

from ddpm_jax.config import Config

STEPS_PER_CALL = 10  # where loops are fast


def calls(first: int, config: Config, loops_are_slow: bool) -> Iterator[tuple[int, int]]:
    """(start, end) of the program calls from step `first` on.

    They end where anything is due and at the multiples of steps_per_call: wherever a run goes on, the same steps are
    in one call, and rounding is the same.

    Args:
      first: the step that training starts from.
      config: steps, steps_per_call, and how often something is due.
      loops_are_slow: then the default is a step a call.
    """
    most = config.steps_per_call or (1 if loops_are_slow else STEPS_PER_CALL)
    strides = [every for every in (most, config.log_every, config.save_every, config.sample_every) if every]
    begin, last = config.profile or (1, 0)
    while first < config.steps:
        edges = [edge for edge in (begin - 1, last) if edge > first]  # of the steps that are traced
        end = min(config.steps, *edges, *((first // every + 1) * every for every in strides))
        yield first, end
        first = end


def check(config: Config) -> None:
    """Refuse numbers that are out of range.

    Raises:
      ValueError: names one.
    """
    for name in ("steps", "batch", "log_every", "save_every", "keep"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} = {getattr(config, name)}: it is at least 1")
    for name in ("seed", "keep_every", "keep_best", "sample_every"):
        if getattr(config, name) < 0:
            raise ValueError(f"{name} = {getattr(config, name)}: it is at least 0")
    for name in ("microbatches", "steps_per_call"):
        if getattr(config, name) is not None and getattr(config, name) < 1:
            raise ValueError(f"{name} = {getattr(config, name)}: it is at least 1")
    rates = config.ema_decay
    if not rates or len(set(rates)) < len(rates) or not all(0 <= rate < 1 for rate in rates):
        raise ValueError(f"ema_decay = {rates}: give one rate or more, each once, from 0 to below 1")
    first, last = config.profile or (1, 1)
    if not 1 <= first <= last:
        raise ValueError(f"profile = {first} {last}: give the first and the last step, from 1")


def due(config: Config, step: int) -> set[str]:
    """What is to be done after a step: log, save, sample."""
    last = step == config.steps
    found = {name for name in ("log", "save") if last or step % getattr(config, f"{name}_every") == 0}
    return found | ({"sample"} if config.sample_every and step % config.sample_every == 0 else set())
