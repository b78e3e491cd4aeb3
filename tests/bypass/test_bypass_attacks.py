"""Every attack of the table that a program can make by itself: one leaf per attack and placement, judged by four things.

What came of each attempt; that no sink saw a byte and no door a visitor; that the mechanism which refused it has written so, with
workload, layer and reason; and that the same program's legitimate query works afterwards.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.bypass import outcomes
from tests.bypass.attacked import Attacked, Tried, written_by
from tests.bypass.attacks import ATTACKS, BOTH, BY_NUMBER, HERE, OPEN

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]

_Key = tuple[str, str]
"""An attack's number, and the placement."""
_ROWS_S = 12.0
_AT_ONCE = 3
"""Attacks beside each other, each in a leaf of its own. What a sink or a door sees meanwhile is held against all of them."""
_ALONE = ("R9",)
"""Takes what there is of the machine, and would make the others late."""
_ALL = [
    pytest.param(attack.number, placement, id=f"{attack.label}-{placement}", marks=pytest.mark.attack(attack.number))
    for placement in HERE
    for attack in ATTACKS
    if attack.attempts and placement in attack.placements
]


class Campaign:
    """The chosen attacks, each made once in a leaf of its own: beside each other, or on a slow machine each when it is asked for."""

    def __init__(self, attacked: Attacked, chosen: list[_Key]) -> None:
        self._attacked = attacked
        self._chosen = chosen
        self._count = itertools.count(1)
        self._pids = attacked.pids()
        self._tried: dict[_Key, Tried] = {}

    def begin(self) -> None:
        """Make all of them, if the machine is quick enough to be asked for several at once."""
        if self._attacked.quick:
            together = [key for key in self._chosen if key[0] not in _ALONE]
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                self._tried = dict(zip(together, pool.map(self._attempt, together), strict=True))
            self._tried |= {key: self._attempt(key) for key in self._chosen if key not in self._tried}
            self._wait_for_rows(self._tried, _ROWS_S)

    def tried(self, number: str, placement: str) -> Tried:
        """Return what came of an attack, with the rows that it left."""
        key = (number, placement)
        if key not in self._tried:
            self._tried[key] = self._attempt(key)
            self._wait_for_rows({key: self._tried[key]}, 5 * _ROWS_S)
        assert self._attacked.pids() == self._pids
        return self._tried[key]

    def _attempt(self, key: _Key) -> Tried:
        number, placement = key
        came = self._attacked.attempt(placement, f"{number}-{placement}", *BY_NUMBER[number].attempts, "legitimate-query")
        if self._attacked.quick:
            print(f"\n  {next(self._count)} of {len(self._chosen)} tried: {BY_NUMBER[number].label}, {placement}", end="", flush=True)
        return came

    def _wait_for_rows(self, attacks: Mapping[_Key, Tried], seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            found = self._attacked.rows([f"{number}-{placement}" for number, placement in attacks])
            for (number, placement), each in attacks.items():
                each.rows = found[f"{number}-{placement}"]
            if time.monotonic() > until or not any(_unwritten(key, each) for key, each in attacks.items()):
                return


@pytest.fixture(scope="module")
def campaign(request: pytest.FixtureRequest, attacked: Attacked) -> Campaign:
    chosen = [
        (item.callspec.params["number"], item.callspec.params["placement"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == "test_attack_comes_to_nothing_and_is_on_record"
    ]
    made = Campaign(attacked, chosen)
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():  # said as they come
        made.begin()
    return made


def _unwritten(key: _Key, tried: Tried) -> set[str]:
    number, placement = key
    return {layer for layer in BY_NUMBER[number].rows_in(placement) if not written_by(layer, tried.rows)}


@pytest.mark.parametrize(("number", "placement"), _ALL)
def test_attack_comes_to_nothing_and_is_on_record(
    campaign: Campaign, number: str, placement: str, record_property: Callable[[str, object], None]
) -> None:
    tried = campaign.tried(number, placement)
    can, said = OPEN.get((number, placement), (lambda: True, ""))
    if not can():
        # Nothing on this kernel stops it: said when the program is started, and in the table.
        assert said in tried.said
        assert tried.leaked == []
        record_property("state", "open")
        return
    assert "ended" not in tried.outcomes, tried.outcomes
    wrong = {name: came for name, came in tried.outcomes.items() if not outcomes.matches(name, placement, came)}
    assert wrong == {}
    assert (tried.leaked, tried.reached) == ([], [])
    assert _unwritten((number, placement), tried) == set(), tried.rows
    assert {row["workload"] for row in tried.rows} <= {placement}
    assert all(row["reason"] for row in tried.rows)


def test_every_attempt_of_the_program_belongs_to_an_attack() -> None:
    used = {attempt for attack in ATTACKS for attempt in attack.attempts} | {"legitimate-query"}
    assert used == set(outcomes.EXPECTED)


@pytest.mark.parametrize("placement", BOTH)
def test_a_placement_is_served_where_the_firewall_can_hold_it_and_refused_where_not(attacked: Attacked, placement: str) -> None:
    done = attacked.service.launch("true", workload=placement)
    if placement in HERE:
        assert done.returncode == 0, done.stderr
    else:
        assert (done.returncode != 0, "iptables" in done.stderr) == (True, True), done.stderr
        rows = attacked.service.wait_sql(f"select reason from admissions where workload = '{placement}' and outcome = 'refused'")
        assert all("iptables" in str(row["reason"]) for row in rows)
