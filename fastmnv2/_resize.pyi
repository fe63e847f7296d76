from typing import Any

class Places:
    inputs: int
    def __init__(self, inputs: int, first: Any, second: Any, place: Any) -> None: ...

class Spans:
    inputs: int
    def __init__(self, inputs: int, starts: Any, counts: Any, weights: Any) -> None: ...

def resize(isa: str, image: Any, rows: Places | Spans, columns: Places | Spans, unit: float, out: Any) -> None: ...
