"""What masking costs: MB/s through ``RowPlan.apply`` and ``CopyPlan.feed``, per kind of result, in pure Python on one core.

Run: ``python -m bench.mask_micro``. Every line is one result of 100 000 rows of about 100 bytes, applied in runs of 64 KiB
as a proxy would receive them; the best of five rounds counts.
"""

from __future__ import annotations

import random
import struct
import time
import uuid
from collections.abc import Callable, Sequence

from hostagent.mask import Exposure, Masker, ResultColumn
from hostagent.model.catalogue import Catalogue, CatalogueRelation
from hostagent.model.verdict import MaskColumn, MaskContent, Obligation
from hostagent.sql import analyse

ROWS = 100_000
RUN = 64 << 10
ROUNDS = 5
CONTENT = MaskContent("content", frozenset({"all"}))
COLUMNS = (MaskColumn("name", "customers", "name"), MaskColumn("mail", "customers", "email"))
TITLES = {1: "id", 2: "name", 3: "ref", 4: "email", 5: "seen", 6: "amount", 7: "street"}
TYPES = {1: 23, 2: 25, 3: 2950, 4: 25, 5: 1184, 6: 1700, 7: 25}
CATALOGUE = Catalogue(
    {20000: CatalogueRelation(20000, "public", "customers", "r", TITLES, TYPES)}, frozenset(), ("public",), {}, "bench"
)


def row(values: Sequence[bytes]) -> bytes:
    body = b"".join(struct.pack(">i", len(value)) + value for value in values)
    return b"D" + struct.pack(">iH", len(body) + 6, len(values)) + body


def values(number: int, dice: random.Random, mail: bytes) -> list[bytes]:
    return [
        str(number).encode(),
        b"Person %d Smith" % number,
        str(uuid.UUID(int=dice.getrandbits(128))).encode(),
        mail,
        b"2024-03-%02d 03:04:05.%06d+00" % (dice.randint(1, 28), dice.randrange(10**6)),
        b"%d.%02d" % (dice.randrange(10**5), dice.randrange(100)),
        b"Some Street %d" % dice.randrange(200),
    ]


def table(mail: Callable[[int], bytes]) -> list[list[bytes]]:
    dice = random.Random(1)
    return [values(number, dice, mail(number)) for number in range(ROWS)]


def runs(rows: Sequence[bytes]) -> list[bytes]:
    found, part, size = [], [], 0
    for one in rows:
        part.append(one)
        size += len(one)
        if size >= RUN:
            found.append(b"".join(part))
            part, size = [], 0
    return [*found, b"".join(part)]


def measure(label: str, data: Sequence[bytes], apply: Callable[[bytes], object]) -> None:
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for run in data:
            apply(run)
        best = min(best, time.perf_counter() - started)
    size = sum(map(len, data))
    print(f"{label:58} {size / best / 1e6:8.1f} MB/s {best / ROWS * 1e6:7.2f} us/row {size / ROWS:6.0f} bytes/row")


def plan(obligations: tuple[Obligation, ...], form: int = 0) -> Callable[[bytes], object]:
    masker = Masker(obligations, CATALOGUE, "shop")
    return masker.rows([ResultColumn(TITLES[n], 20000, n, TYPES[n], form) for n in TITLES], Exposure.NONE).apply


def binary(values: list[bytes], number: int) -> list[bytes]:
    return [
        struct.pack(">i", number),
        values[1],
        uuid.UUID(values[2].decode()).bytes,
        values[3],
        struct.pack(">q", 700000000000000 + number),
        struct.pack(">HhHHHH", 2, 1, 0, 2, 7, 4321),
        values[6],
    ]


def main() -> None:
    clean = table(lambda number: b"nobody at nowhere")
    mails = table(lambda number: b"person%d@example.com" % number)
    cards = table(lambda number: b"4111 1111 1111 1111")
    sparse = table(lambda number: b"a%d@example.com" % number if number % 100 == 0 else b"nobody at nowhere")
    as_rows = {name: runs([row(v) for v in rows]) for name, rows in (("clean", clean), ("mails", mails), ("cards", cards), ("sparse", sparse))}
    measure("detectors, nothing to find", as_rows["clean"], plan((CONTENT,)))
    measure("detectors, one row in 100 has an e-mail address", as_rows["sparse"], plan((CONTENT,)))
    measure("detectors, an e-mail address in every row", as_rows["mails"], plan((CONTENT,)))
    measure("detectors, a card number in every row", as_rows["cards"], plan((CONTENT,)))
    measure("two masked columns", as_rows["mails"], plan(COLUMNS))
    measure("two masked columns and detectors", as_rows["mails"], plan((*COLUMNS, CONTENT)))
    measure("one masked column, detectors hit another in every row", as_rows["mails"], plan((COLUMNS[0], CONTENT)))
    in_binary = runs([row(binary(v, number)) for number, v in enumerate(mails)])
    measure("binary: two masked columns and detectors", in_binary, plan((*COLUMNS, CONTENT), 1))
    measure("binary: detectors, an e-mail address in every row", in_binary, plan((CONTENT,), 1))
    (statement,) = analyse("copy customers to stdout").statements
    text = runs([b"\t".join(v) + b"\n" for v in mails])
    none = runs([b"\t".join(v) + b"\n" for v in clean])

    def copied(obligations: tuple[Obligation, ...]) -> Callable[[bytes], object]:
        stream = Masker(obligations, CATALOGUE, "shop").copy_out(statement)
        assert stream is not None
        return stream.feed

    measure("COPY text: detectors, nothing to find", none, copied((CONTENT,)))
    measure("COPY text: two masked columns and detectors", text, copied((*COLUMNS, CONTENT)))


if __name__ == "__main__":
    main()
