"""placeholder"""


def compare(every: int) -> dict:
    return {}
