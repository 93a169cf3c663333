"""What errors of other libraries say, for messages of one line."""


def first_line(error: Exception) -> str:
    """The first line of an error; its kind where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def kind_and_first_line(error: Exception) -> str:
    """The kind of an error before its first line."""
    kind, said = type(error).__name__, first_line(error)
    return kind if said == kind else f"{kind}: {said}"
