"""The demo: a virtual ward and a real gateway, told in a terminal; or headless, every scenario, with a report.

Every number shown was measured in this run. Refuses to know how a scenario is played.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway import __version__
from hil.bench import Bench, clean
from hil.large import LargeBench
from hil.process import BenchError
from hil.scenarios import SCENARIOS, Result, arrived, play

_LEAST_S = 90
_CALM_S = 60.0  # between two outages of a long run
_COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(text: str, code: str) -> str:
    """``text`` in an SGR colour when the terminal has colours."""
    return f"\x1b[{code}m{text}\x1b[0m" if _COLOUR else text


def say(text: str = "") -> None:
    """One line to the terminal, at once."""
    print(text, flush=True)


def step(number: int, title: str, detail: str) -> None:
    """A set-up step, done."""
    say(f" {paint(f'{number:2d}', '36')}  {paint(title, '1')}{paint(' — ' + detail, '2') if detail else ''}")


def main() -> int:
    """The command."""
    options = _options()
    if options.clean:
        for what in clean():
            say(f"removed {what}")
        return 0
    for name in ("report", "artifacts"):
        if (path := getattr(options, name)) is not None:
            setattr(options, name, Path(os.environ.get("WARDGATE_CALLED_FROM", ".")) / path)
    directory = Path(tempfile.mkdtemp(prefix="wardgate-bench-", dir="/tmp"))
    directory.chmod(0o755)
    make: Callable[..., Bench] = LargeBench if options.ward == "large" else Bench
    bench = make(directory, port=options.port, tell=step)
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        say(paint("\nWardgate", "1") + " — every device gets exactly as much network as its latest evidence earns\n")
        bench.start()
        return headless(bench, options) if options.seconds else guided(bench, options)
    except BenchError as e:
        sys.stderr.write(f"hil/demo: {e}; the logs are in {directory}/log\n")
        directory = Path("/nonexistent")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        bench.stop()
        if directory.exists():
            shutil.rmtree(directory, ignore_errors=True)


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hil/demo", description="a virtual ward with a real gateway")
    parser.add_argument(
        "--seconds", type=int, metavar="N", help=f"headless, every scenario; at least {_LEAST_S}, set-up not counted"
    )
    parser.add_argument("--report", type=Path, metavar="FILE")
    parser.add_argument("--artifacts", type=Path, metavar="DIR")
    parser.add_argument("--ward", choices=("small", "large"), default="small", help="5 or 50 devices")
    parser.add_argument("--port", type=int, default=8443, help="the page's port on this machine's loopback")
    parser.add_argument("--clean", action="store_true", help="remove what an interrupted run left")
    options = parser.parse_args()
    if options.seconds is not None and options.seconds < _LEAST_S:
        parser.error(f"--seconds is at least {_LEAST_S}")
    return options


# --- headless ---


def headless(bench: Bench, options: argparse.Namespace) -> int:
    """Every scenario, ``daemon-killed`` last; exit 0 only if all hold."""
    began = time.monotonic()
    say()
    results: list[Result] = []
    for name in SCENARIOS:
        if name == "daemon-killed":
            results += _linger(bench, began + options.seconds - 45)
        results.append(play(bench, name))
        tell(results[-1])
    bench.revive_daemon()
    _linger(bench, began + options.seconds)
    report = report_of(bench, [r for r in results if r.name in SCENARIOS], time.monotonic() - began)
    if options.report:
        options.report.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    if options.artifacts:
        artifacts(bench, options.artifacts)
    doubt(bench, options.artifacts)
    failed = [r.name for r in results if not r.ok]
    if lost := report["totals"]["observations_lost"]:
        failed.append(f"{lost} readings lost")
    say(
        paint(
            f"\n{len(results) - len(failed)} of {len(results)} scenarios hold" + (f"; not: {', '.join(failed)}" if failed else ""),
            "1",
        )
    )
    return 1 if failed else 0


def _linger(bench: Bench, until: float) -> list[Result]:
    """Let the ward run until then. When that is long, the hospital goes away again and again; every outage has a result."""
    results: list[Result] = []
    outages = itertools.cycle((_broker_away, _cable_out, _both_away))
    next_at = time.monotonic() + _CALM_S
    while (left := until - time.monotonic()) > 0:
        if time.monotonic() > next_at and left > _CALM_S:
            results.append(_outage(bench, next(outages)))
            next_at = time.monotonic() + _CALM_S
        time.sleep(min(1.0, left))
    return results


def _outage(bench: Bench, away: Callable[[Bench, float], None]) -> Result:
    """One outage of the soak: the ward stays trusted, and everything arrives after."""
    name, seconds = away.__name__.strip("_").replace("_", "-"), float(random.randint(5, 40))
    try:
        away(bench, seconds)
        levels = {d["id"]: d["level"] for d in bench.view()["devices"]}
        queued, drained = bench.waiting(), bench.drained(60)
        taken, lost = bench.missing(timeout_s=10)
        held = not lost and all(levels[d] == bench.earns(d) for d in bench.positions)
    except (BenchError, OSError, RuntimeError) as e:
        return Result(name, False, {}, f"{type(e).__name__}: {e}")
    text = f"{seconds:g} s away: {queued} waited, gone after {drained:.1f} s; {taken - lost} of {taken} readings arrived; {levels}"
    result = Result(name, held, {"queued": float(queued), "lost": float(lost)}, text)
    tell(result)
    return result


def _broker_away(bench: Bench, seconds: float) -> None:
    assert bench.broker
    bench.broker.stop()
    time.sleep(seconds)
    bench.broker.start()


def _cable_out(bench: Bench, seconds: float) -> None:
    assert bench.ward
    bench.ward.unplug()
    time.sleep(seconds)
    bench.ward.unplug(hospital=False)


def _both_away(bench: Bench, seconds: float) -> None:
    assert bench.ward
    bench.ward.unplug()
    _broker_away(bench, seconds)
    bench.ward.unplug(hospital=False)


def tell(result: Result) -> None:
    """One scenario's end, as a line."""
    mark = paint("✓", "32") if result.ok else paint("✗", "31;1")
    figures = "  ".join(f"{k} {v:g}" for k, v in result.figures.items())
    say(f" {mark}  {paint(result.name, '1'):28s} {result.detail}" + (f"\n       {paint(figures, '36')}" if figures else ""))


def report_of(bench: Bench, results: list[Result], seconds: float) -> dict[str, Any]:
    """The report in the shape that others read."""
    view = bench.view()
    totals = bench.totals()
    return {
        "version": __version__,
        "seconds": round(seconds),
        "devices": [_device(d, bench.positions[d["id"]]["profile"]) for d in view["devices"]],
        "scenarios": [dataclasses.asdict(r) for r in results],
        "totals": {**totals, "certificates": view["gateway"]["certificates"], "quotes": view["gateway"]["quotes"]},
    }


def _device(d: dict[str, Any], profile: str) -> dict[str, Any]:
    functions = [{k: f[k] for k in ("name", "required", "allowed", "on_loss")} for f in d["functions"]]
    return {**{k: d[k] for k in ("id", "name", "bus", "state", "level", "tier")}, "profile": profile, "functions": functions}


# --- for those who don't believe us ---


def artifacts(bench: Bench, directory: Path) -> None:
    """Bundles, the anchor and the newest quote, in the formats that other tools read."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from gateway.issuer.bundle import parse_bundle

    (directory / "bundles").mkdir(parents=True, exist_ok=True)
    (directory / "quote").mkdir(exist_ok=True)
    shutil.copy(bench.directory / "ca" / "ca.pem", directory / "anchor.pem")
    newest = None
    for device_id in bench.positions:
        data = bench.bundle(device_id)
        (directory / "bundles" / f"{device_id}.bundle").write_bytes(data)
        parsed = parse_bundle(data)
        newest = parsed if newest is None or parsed.header.sequence > newest.header.sequence else newest
    assert newest
    quote = directory / "quote"
    (quote / "attest.bin").write_bytes(newest.attest)
    (quote / "signature.bin").write_bytes(newest.signature)
    ak = x509.load_der_x509_certificate(newest.chain[0]).public_key()
    (quote / "ak.pem").write_bytes(ak.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (quote / "qualifying.hex").write_text(newest.header.qualifying().hex())
    (quote / "pcrs.json").write_text(json.dumps({str(n): v.hex() for n, v in newest.pcrs}, indent=1))


def doubt(bench: Bench, given: Path | None) -> None:
    """The very commands a stranger would run: OK, and FAIL after one flipped byte."""
    directory = given or bench.directory / "artifacts"
    if given is None:
        artifacts(bench, directory)
    say(paint("\n Don't believe us:", "1"))
    q = directory / "quote"
    qualifying = (q / "qualifying.hex").read_text()
    check = [
        "tpm2_checkquote",
        "-u",
        f"{q}/ak.pem",
        "-m",
        f"{q}/attest.bin",
        "-s",
        f"{q}/signature.bin",
        "-g",
        "sha256",
        "-q",
        qualifying,
    ]
    bundle = directory / "bundles" / "pump-1.bundle"
    wardgate = str(Path(sys.executable).parent / "wardgate")
    verify = [wardgate, "verify", str(bundle), "--anchor", str(directory / "anchor.pem")]
    flipped = bench.directory / "flipped"
    for command, file in ((check, q / "attest.bin"), (verify, bundle)):
        say(f"   $ {' '.join(command)}")
        say(f"     {_ran(command)}")
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        flipped.write_bytes(bytes(data))
        again = [str(flipped) if w == str(file) else w for w in command]
        say(f"   …the same after byte {len(data) // 2} was flipped: {_ran(again)}")


def _ran(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    last = (done.stderr.strip().splitlines() or [""])[-1] if done.returncode else ""
    return paint("OK", "32") if done.returncode == 0 else f"{paint('FAIL', '31')}  {last}"


# --- guided ---


def guided(bench: Bench, options: argparse.Namespace) -> int:
    """The loop for a person: the story first, then keys."""
    say(f"\n the page      {paint(f'https://127.0.0.1:{bench.port}/', '4')}  (user admin)")
    say(f" read-only     {paint(bench.view_link, '4')}\n")
    for name in ("observed", "trusted-ward"):
        tell(play(bench, name))
    keys = {"t": _tamper_wearable, "p": _tamper_pump, "k": _kill, "r": _restore, "w": _hospital}
    say("\n keys: " + "  ".join(f"{paint(k, '1')} {w}" for k, w in _KEYS.items()))
    with _raw_keys() as pressed:
        while True:
            key = pressed(1.0)
            if key == "q":
                break
            if key in keys:
                keys[key](bench)
            _line(bench)
    say("\n")
    bench.revive_daemon()
    doubt(bench, options.artifacts)
    return 0


_KEYS = {
    "t": "tamper with the wearable",
    "p": "with the pump",
    "w": "unplug the hospital",
    "k": "kill the gateway",
    "r": "restore",
    "q": "quit",
}


def _line(bench: Bench) -> None:
    """The hospital's own view, second by second: it shows the stall."""
    now = time.monotonic_ns()
    parts = []
    for who in ("maintenance", "central"):
        count, last = arrived(bench, who)
        silent = (now - last) / 1e6
        shown = paint(f"{count:7d} packets", "32") if silent < 300 else paint(f"stalled {silent / 1000:5.1f} s", "31")
        parts.append(f"{'monitoring' if who == 'central' else who} {shown}")
    levels = ""
    if bench.daemon and bench.daemon.running:
        try:
            view = bench.view()
            levels = "  ".join(f"{d['id']} level {d['level']}" for d in view["devices"])
            levels += f"  outbox {view['gateway']['outbox_rows']}"
        except Exception as e:  # noqa: BLE001 - a stopped daemon is part of the show
            levels = f"the gateway does not answer ({type(e).__name__})"
    end = "\r" if _COLOUR else "\n"
    print(
        f"\x1b[2K   hospital: {'   '.join(parts)}    {levels}" if _COLOUR else f"   hospital: {'   '.join(parts)}    {levels}",
        end=end,
        flush=True,
    )


def _told(name: str) -> Callable[[Bench], None]:
    def act(bench: Bench) -> None:
        say()
        tell(play(bench, name))

    return act


_tamper_wearable, _tamper_pump = _told("tampered-wearable"), _told("tampered-equipment")


def _restore(bench: Bench) -> None:
    say()
    bench.revive_daemon()
    if bench.ward and bench.broker:
        bench.ward.unplug(hospital=False)
        queued = bench.waiting()
        took = bench.drained(30)
        say(f"   {queued} readings and messages waited; all were delivered {took:.1f} s after the cable was back")
    tell(play(bench, "reattested"))


def _kill(bench: Bench) -> None:
    say(f"\n   SIGKILL to the gateway (pid {bench.daemon.pid if bench.daemon else '?'}); its leases lapse by themselves")
    tell(play(bench, "daemon-killed"))


def _hospital(bench: Bench) -> None:
    say("\n   the hospital's cable is pulled: the ward goes on, what is said waits on disk; r puts it back")
    if bench.ward:
        bench.ward.unplug()


@contextmanager
def _raw_keys() -> Iterator[Callable[[float], str]]:
    """Keys without Enter; without a terminal: lines from standard input, and the end of it is ``q``."""

    def pressed(wait_s: float) -> str:
        ready, _, _ = select.select([sys.stdin], [], [], wait_s)
        if not ready:
            return ""
        return os.read(sys.stdin.fileno(), 1).decode(errors="replace") or "q"

    if not sys.stdin.isatty():
        yield pressed
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


if __name__ == "__main__":
    sys.exit(main())
