"""The record as a file: CSV for a spreadsheet, JSON lines for a program; streamed, so that no file is ever held in memory.

A cell that a spreadsheet would compute is made text first (a device or a stranger chose parts of it). Only what people read of the
record is in it: no evidence, no readings. Refuses to know which lines were asked for.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from gateway.model.view import EventView
from gateway.web.asking import QUERY, query_of
from gateway.web.contract import ANYONE, Answer, Route
from gateway.web.desk import DESK

_COLUMNS = ("sequence", "time_utc", "kind", "severity", "device_id", "text")
_COMPUTED = ("=", "+", "-", "@", "\t", "\r", "\n")  # what spreadsheets take for a formula, or skip before one
_FLUSH = 32 * 1024
_WRITE_S = 30.0  # a client that takes longer for one piece is gone


async def as_csv(request: web.Request) -> web.StreamResponse:
    """CSV as RFC 4180 has it, with a header line."""
    return await _stream(request, "csv", "text/csv", csv_line(_COLUMNS), lambda e: csv_line([getattr(e, c) for c in _COLUMNS]))


async def as_json_lines(request: web.Request) -> web.StreamResponse:
    """One JSON object a line."""
    return await _stream(request, "jsonl", "application/jsonl", "", json_line)


def csv_line(cells: object) -> str:
    """One line; text that a spreadsheet would compute begins with an apostrophe."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow([guarded(c) for c in cells])  # type: ignore[attr-defined]
    return out.getvalue()


def guarded(cell: object) -> object:
    """A cell that stays what it is."""
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip(" ").startswith(_COMPUTED) else cell


def json_line(event: EventView) -> str:
    """One object, ASCII only."""
    return json.dumps({c: getattr(event, c) for c in _COLUMNS}, ensure_ascii=True) + "\n"


async def _stream(request: web.Request, suffix: str, kind: str, head: str, line: Callable[[EventView], str]) -> web.StreamResponse:
    desk, query = request.app[DESK], query_of(request)
    gateway = desk.console.view().gateway.id
    headers = {"Content-Disposition": f'attachment; filename="{gateway}-events.{suffix}"', "Content-Type": f"{kind}; charset=utf-8"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    async for piece in _pieces(desk.console.house.each(query), head, line):
        async with asyncio.timeout(_WRITE_S):
            await response.write(piece)
    await response.write_eof()
    return response


async def _pieces(events: AsyncIterator[EventView], head: str, line: Callable[[EventView], str]) -> AsyncIterator[bytes]:
    held, size = [head], len(head)
    async for event in events:
        held.append(line(event))
        size += len(held[-1])
        if size > _FLUSH:
            yield "".join(held).encode()
            held, size = [], 0
    yield "".join(held).encode()


TABLE: tuple[Route, ...] = (
    Route("GET", "/api/v1/events.csv", as_csv, "The record for people as CSV", ANYONE,
          {200: Answer("A header line and a line an event", {"text/csv": None})}, query=QUERY, heads=False),
    Route("GET", "/api/v1/events.jsonl", as_json_lines, "The record for people as JSON lines", ANYONE,
          {200: Answer("An object a line", {"application/jsonl": None})}, query=QUERY, heads=False),
)  # fmt: skip


def routes() -> list[web.RouteDef]:
    """Both files."""
    return [r.definition() for r in TABLE]
