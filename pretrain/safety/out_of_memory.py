"""The message when memory runs out: which settings to change, the cheapest first."""

from dnachunker.pretrain.config import EngineSettings


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that device or host memory ran out; knows torch's class by name, without torch."""
    by_name = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return by_name or isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def sharding_advice(engine: EngineSettings) -> list[str]:
    """To take the next ZeRO stage, where there is one: the trunk cannot be compiled in stage 3."""
    last = 3 if engine.compile == "off" else 2
    return [f"set engine.zero_stage={engine.zero_stage + 1} on several ranks"] if engine.zero_stage < last else []


def out_of_memory_line(engine: EngineSettings, rank: int, call: str, step: int) -> str:
    """Where memory ran out, and which keys to change.

    With all but the precision the run goes on, and its results change only by rounding.
    """
    advice = [f"lower engine.micro_batch (now {engine.micro_batch or 'all windows of a rank'})"]
    if engine.micro_batch == "auto":
        advice = ["set engine.micro_batch to less than `auto` chose at the start of the run"]
    if not engine.activation_checkpointing:
        advice.append("set engine.activation_checkpointing=true")
    if engine.precision == "fp32":
        advice.append("start a new run with engine.precision=bf16")
    advice += sharding_advice(engine)
    if engine.zero_stage and not engine.offload_optimizer:
        advice.append("set engine.offload_optimizer=true")
    advice.append("use more ranks")
    return (
        f"rank {rank} ran out of memory in {call} of step {step}; the last checkpoint is intact. "
        f"Try in this order: {', '.join(advice)}"
    )
