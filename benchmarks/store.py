"""What the object store costs over the bare S3 client: objects of 100 kB, 1 MB and 50 MB, put and got, in turns.

Ours hashes and verifies, makes only what is not there, and tries again; the client alone does none of that. Both talk
to the same real server on loopback: SeaweedFS, and MinIO where it is built.
"""

import argparse
import hashlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.report import interleave, print_figures, print_table, spread
from nasmesh.store.cached import CachedStore
from nasmesh.store.keys import ObjectKind
from nasmesh.store.s3 import S3Store
from tests.builders.s3_servers import KINDS, absent, s3_server
from tests.builders.s3_stores import Bucket, new_bucket

TARGET = 0.9
_SIZES = {"100kB": 100_000, "1MB": 1_000_000, "50MB": 50_000_000}


class Contents:
    """Bytes that are others each time, at the price of a few: no store has seen them."""

    def __init__(self, size: int) -> None:
        """Draw the rest of them once."""
        self._rest = os.urandom(size - 16)

    def fresh(self) -> bytes:
        """Return the next."""
        return os.urandom(16) + self._rest


def _puts(bucket: Bucket, store: S3Store, contents: Contents) -> dict[str, Callable[[], object]]:
    def bare() -> object:
        content = contents.fresh()
        return bucket.raw.put_object(bucket.name, f"bare/{os.urandom(8).hex()}", io.BytesIO(content), len(content))

    return {
        "bare": bare,
        "ours": lambda: store.put(ObjectKind.CHECKPOINT, contents.fresh()),
        "checked": lambda: (hashlib.sha256(contents.fresh()).hexdigest(), bare()),
    }


def _gets(bucket: Bucket, store: S3Store, contents: Contents, folder: Path) -> dict[str, Callable[[], object]]:
    ref = store.put(ObjectKind.CHECKPOINT, contents.fresh())
    cached = CachedStore(store, folder, 1 << 30)

    def bare() -> bytes:
        response = bucket.raw.get_object(bucket.name, ref.key)
        try:
            return response.read()
        finally:
            response.close()
            response.release_conn()

    return {
        "bare": bare,
        "ours": lambda: store.get(ref),
        "checked": lambda: hashlib.sha256(bare()).hexdigest() == ref.sha256,
        "here already": lambda: cached.get(ref),
    }


def _measured(
    bucket: Bucket, kind: str, folder: Path, seconds: float
) -> Iterator[tuple[list[object], dict[str, float]]]:
    store = bucket.store()
    for label, size in _SIZES.items():
        contents = Contents(size)
        share = seconds * (2 if size > 10_000_000 else 1) / 8
        for what, contenders in (
            ("put", _puts(bucket, store, contents)),
            ("get", _gets(bucket, store, contents, folder)),
        ):
            times = {
                name: [each.wall_s for each in found] for name, found in interleave(contenders, seconds=share).items()
            }
            rates = {name: spread([1 / each for each in found]) for name, found in times.items()}
            # Of neighbours in time: what else the machine does, it does to both.
            ratio = spread([bare / ours for bare, ours in zip(times["bare"], times["ours"], strict=True)])
            same = spread([bare / ours for bare, ours in zip(times["checked"], times["ours"], strict=True)])
            words = [f"{rates[name]} ({rates[name].median * size / 1e6:.0f} MB/s)" for name in ("bare", "ours")]
            here = f"{rates['here already'].median:.0f}" if "here already" in rates else ""
            yield (
                [f"{kind} {what} {label}", *words, here, ratio, same],
                {
                    f"{kind}_{what}_{label}_ratio_to_one_that_hashes": same.median,
                    f"{kind}_{what}_{label}_ratio": ratio.median,
                    f"{kind}_{what}_{label}_per_s": rates["ours"].median,
                    f"{kind}_{what}_{label}_mb_per_s": rates["ours"].median * size / 1e6,
                },
            )


def main() -> None:
    """Measure, print the tables, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within 50 s")
    seconds = 16.0 if parser.parse_args().quick else 80.0
    rows: list[list[object]] = []
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for kind in KINDS:
            if why := absent(kind):
                print(f"without {kind}: {why}", file=sys.stderr)
                continue
            server = stack.enter_context(s3_server(kind, folder / kind))
            for row, found in _measured(new_bucket(server), kind, folder / f"{kind}-copies", seconds):
                rows.append(row)
                figures.update(found)
            server.kill()
    print_table(
        f"objects a second: median [quartiles]; ours ÷ bare at least {TARGET:g}",
        ["", "bare client", "ours", "here already", "ours ÷ bare", "ours ÷ bare that hashes"],
        rows,
    )
    print_figures({**figures, "worst_ratio": min(v for k, v in figures.items() if k.endswith("_ratio"))})


if __name__ == "__main__":
    main()
