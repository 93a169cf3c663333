"""What errors of other libraries say, for messages of one line."""


def first_line(error: Exception) -> str:
    """The first line of an error; its kind where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
