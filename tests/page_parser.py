"""A page of a report taken apart: tables by name, sites of the tree, its numbers, and what could load something."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

Cell = tuple[str, str | None]  # what it says, and its number


class Page(HTMLParser):
    """tables: rows of cells by the table's name, without the header. sites: of the tree. addresses: of all elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[Cell]]] = {}
        self.sites: list[str] = []
        self.addresses: list[str] = []
        self.elements: list[str] = []
        self.ids: list[str] = []
        self.data: dict[str, Any] = {}
        self.words = ""
        self._table = ""
        self._inside: list[str] = []
        self._numbers = False
        self.feed(text)
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        self.elements.append(tag)
        if of.get("id"):
            self.ids.append(of["id"] or "")
        self.addresses += [
            of[name] or "" for name in ("src", "href", "srcset", "data", "action") if name in of
        ]
        if "data-site" in of:
            self.sites.append(of["data-site"] or "")
        if tag in ("script", "style"):
            self._inside.append(tag)
            self._numbers = of.get("id") == "data"
        elif tag == "table":
            self._table = (of["id"] or "").removeprefix("table-")
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag == "td":
            self.tables[self._table][-1].append(("", of.get("data-value")))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside.pop()
        elif tag == "tbody":
            self.tables[self._table] = [row for row in self.tables[self._table] if row]
            self._table = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            if self._numbers:
                self.data = json.loads(data)
                self._numbers = False
            return
        self.words += f"{data} "
        rows = self.tables.get(self._table)
        if rows and rows[-1]:
            said, value = rows[-1][-1]
            rows[-1][-1] = (said + data.strip(), value)

    def numbers(self, table: str, column: int) -> dict[str, float | None]:
        """A column of a table by what its first cell says; None for an empty cell."""
        return {row[0][0]: float(row[column][1]) if row[column][1] else None for row in self.tables[table]}
