"""XML from strangers as plain elements: no DTD, no entities, limited in size and depth; no meaning is known here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from rakka_sim.errors import InputError

MOST_BYTES = 4 << 20
MOST_ELEMENTS = 20_000
DEEPEST = 24


@dataclass(slots=True)
class Element:
    """An element, its attributes and children, and the line that it begins in."""

    tag: str
    attributes: dict[str, str]
    line: int
    children: list[Element] = field(default_factory=list)

    def get(self, name: str) -> str:
        """An attribute, stripped; "" where there is none."""
        return self.attributes.get(name, "").strip()

    def all(self, *tags: str) -> Iterator[Element]:
        """The children of these tags, in order."""
        return (child for child in self.children if child.tag in tags)


def parse_xml(text: str | bytes, where: str) -> Element:
    """The root element; raises InputError that names the place. Text between elements is ignored."""
    data = text.encode() if isinstance(text, str) else text
    if len(data) > MOST_BYTES:
        raise InputError(where, f"{len(data)} bytes", f"at most {MOST_BYTES} bytes")
    parser = expat.ParserCreate()
    open_: list[Element] = []
    roots: list[Element] = []
    count = 0

    def refuse(what: str, allowed: str) -> None:
        raise InputError(f"{where}, line {parser.CurrentLineNumber}", what, allowed)

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if count > MOST_ELEMENTS:
            refuse(f"more than {MOST_ELEMENTS} elements", f"at most {MOST_ELEMENTS}")
        if len(open_) >= DEEPEST:
            refuse(f"elements nested deeper than {DEEPEST}", f"at most {DEEPEST} levels")
        element = Element(tag, attributes, parser.CurrentLineNumber)
        (open_[-1].children if open_ else roots).append(element)
        open_.append(element)

    def end(tag: str) -> None:
        open_.pop()

    def doctype(*_: object) -> None:
        refuse("a document type", "no DTD and no entities")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    # A DTD is where entities come from, those that expand for ever and those that read files.
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        place = f"{where}, line {error.lineno}"
        raise InputError(place, expat.errors.messages[error.code], "well-formed XML") from None
    return roots[0]
