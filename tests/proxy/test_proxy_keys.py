"""Key sets of a real provider: found, kept, renewed, limited, and dropped when the provider lies."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from hostagent.identity import Expectation, validate
from hostagent.identity.compact import read_compact
from hostagent.model.errors import IdentityError
from hostagent.proxy import keys as keys_module
from hostagent.proxy.keys import AGAIN_S, MAX_ANSWER, REFRESH_S, STALE_S, Keys, KeySource, fetch
from tests.identity.tokens import jwk
from tests.proxy.oidc_provider import Provider

DISCOVERY, JWKS = "/.well-known/openid-configuration", "/jwks.json"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    made = Provider(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def source(provider: Provider) -> KeySource:
    return KeySource(provider.issuer, "", str(provider.ca_file))


async def problem(keys: Keys, source: KeySource, **how: Any) -> str:
    with pytest.raises(IdentityError) as caught:
        await keys.get(source, **how)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["id_token", "access_token"])
async def test_a_real_providers_token_is_believed(provider: Provider, source: KeySource, kind: str) -> None:
    token = await asyncio.to_thread(provider.token, kind)
    claims = read_compact(token).claims
    found = validate(
        token, await Keys().get(source), Expectation(provider.issuer, "hostagent"), float(str(claims["iat"]))
    )
    assert (found.issuer, found.subject, set(found.groups), found.purpose) == (
        provider.issuer,
        claims["sub"],
        {"support", "staff"},
        "help",
    )


async def test_a_set_is_fetched_once_and_for_unknown_keys_at_a_limited_rate(
    provider: Provider, source: KeySource
) -> None:
    clock = Clock()
    keys = Keys(clock=clock)
    first = await keys.get(source)
    assert await keys.get(source) is first
    assert provider.count(JWKS) == 1
    for _ in range(50):
        await keys.get(source, missing=True)
    assert provider.count(JWKS) == 2
    clock.now += AGAIN_S - 0.1
    await keys.get(source, missing=True)
    assert provider.count(JWKS) == 2
    clock.now += 0.2
    await keys.get(source, missing=True)
    assert provider.count(JWKS) == 3


async def test_a_rotated_key_is_found_and_the_old_one_kept_while_published(
    provider: Provider, source: KeySource
) -> None:
    keys = Keys(clock=Clock())
    old = {key.kid for key in (await keys.get(source)).keys}
    provider.rotate(withdraw=False)
    new = {key.kid for key in (await keys.get(source, missing=True)).keys}
    assert old < new
    assert len(new) == 4


async def test_a_withdrawn_key_is_gone_after_the_next_refresh(provider: Provider, source: KeySource) -> None:
    clock = Clock()
    keys = Keys(clock=clock)
    old = {key.kid for key in (await keys.get(source)).keys}
    provider.rotate(withdraw=True)
    clock.now += REFRESH_S
    await _background_round(keys)
    assert not old & {key.kid for key in (await keys.get(source)).keys}


async def test_while_the_provider_is_down_the_last_good_set_serves_until_it_is_too_old(
    provider: Provider, source: KeySource
) -> None:
    clock = Clock()
    keys = Keys(clock=clock)
    good = await keys.get(source)
    provider.down = True
    clock.now += STALE_S
    await _background_round(keys)
    assert await keys.get(source) is good
    assert keys.status()[0]["problem"]
    clock.now += 0.1
    assert "s old and cannot be fetched anew" in await problem(keys, source)
    provider.down = False
    clock.now += REFRESH_S
    await _background_round(keys)
    assert (await keys.get(source)).version == good.version


async def test_a_provider_that_is_down_is_not_asked_again_for_every_token(
    provider: Provider, source: KeySource
) -> None:
    provider.down = True
    clock = Clock()
    keys = Keys(clock=clock)
    for _ in range(20):
        assert "cannot be had" in await problem(keys, source)
    assert provider.count(DISCOVERY) == 1


async def _background_round(keys: Keys) -> None:
    """One turn of what ``run`` does for ever."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(8):
            task = asyncio.create_task(keys.run())
            try:
                while any(kept.tried_at != keys._clock() for kept in keys._kept.values()) or any(
                    kept.lock.locked() for kept in keys._kept.values()
                ):
                    await asyncio.sleep(0.01)
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


def _json(document: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, json.dumps(document).encode()


@pytest.mark.parametrize("said", ["https://evil.example", "", None, 5])
async def test_a_provider_that_names_another_issuer_is_not_believed(
    provider: Provider, source: KeySource, said: Any
) -> None:
    provider.answers[DISCOVERY] = _json({"issuer": said, "jwks_uri": provider.issuer + JWKS})
    assert f"says its issuer is {said!r}, not {provider.issuer!r}" in await problem(Keys(), source)
    assert provider.count(JWKS) == 0, "nothing that it says counts"


async def test_a_trailing_slash_makes_another_issuer(provider: Provider) -> None:
    source = KeySource(provider.issuer + "/", "", str(provider.ca_file))
    assert "says its issuer is" in await problem(Keys(), source)


async def test_a_provider_that_begins_to_lie_loses_what_it_said_before(provider: Provider, source: KeySource) -> None:
    clock = Clock()
    keys = Keys(clock=clock)
    await keys.get(source)
    provider.answers[DISCOVERY] = _json({"issuer": "https://evil.example", "jwks_uri": provider.issuer + JWKS})
    clock.now += REFRESH_S
    await _background_round(keys)
    assert "says its issuer is 'https://evil.example'" in await problem(keys, source)


@pytest.mark.parametrize(
    ("document", "wanted"),
    [
        ({}, "names no key set (jwks_uri)"),
        ({"jwks_uri": 5}, "names no key set (jwks_uri)"),
        ({"jwks_uri": "http://127.0.0.1:1/keys"}, "names a key set that is not fetched by https"),
        ({"jwks_uri": "file:///etc/passwd"}, "names a key set that is not fetched by https"),
        ({"jwks_uri": "https://user@127.0.0.1/keys"}, "is not an address that keys are fetched from"),
        ({"jwks_uri": "https://127.0.0.1:99999/keys"}, "has no valid port"),
        ({"jwks_uri": "https://127.0.0.1/a b\r\nX: y"}, "is not an address that keys are fetched from"),
    ],
)
async def test_a_strange_address_of_keys_is_refused(
    provider: Provider, source: KeySource, document: Any, wanted: str
) -> None:
    provider.answers[DISCOVERY] = _json({"issuer": provider.issuer, **document})
    assert wanted in await problem(Keys(), source)


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ((404, {}, b"{}"), "answers 404"),
        ((500, {}, b"oops"), "answers 500"),
        (
            (302, {"Location": "https://evil.example/keys"}, b""),
            "answers 302 (redirects are not followed: https://evil.example/keys)",
        ),
        ((200, {}, b"<html>"), "is not strict JSON"),
        ((200, {}, b'{"keys": []}'), "has no key that can be used"),
        ((200, {}, b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}'), "of a kind that is not accepted: oct"),
        ((200, {"Content-Encoding": "gzip"}, gzip.compress(b"{}")), "answers compressed"),
        ((200, {}, b" " * (MAX_ANSWER + 1)), f"answers with more than {MAX_ANSWER} bytes"),
        ((200, {"Content-Length": "500"}, b"{}"), "IncompleteRead"),
    ],
)
async def test_an_answer_that_is_no_key_set_is_refused(
    provider: Provider, source: KeySource, answer: Any, wanted: str
) -> None:
    provider.answers[JWKS] = answer
    assert wanted in await problem(Keys(), source)


async def test_an_untrusted_certificate_is_refused(provider: Provider) -> None:
    assert "certificate verify failed" in await problem(Keys(), KeySource(provider.issuer, "", ""))
    assert provider.asked == []


async def test_keys_come_from_an_address_of_their_own_without_discovery(provider: Provider) -> None:
    source = KeySource("https://login.example.com", provider.issuer + JWKS, str(provider.ca_file))
    assert len((await Keys().get(source)).keys) == 2
    assert provider.asked == [JWKS]


async def test_a_trust_domain_needs_its_bundle() -> None:
    assert "name its bundle with jwks" in await problem(Keys(), KeySource("spiffe://prod.example.org", "", ""))


@pytest.mark.parametrize(
    "address",
    [
        "http://192.0.2.1/keys",
        "http://example.com/keys",
        "http://127.0.0.1.example.com/k",
        "ftp://127.0.0.1/k",
        "keys",
        "",
    ],
)
async def test_plain_http_is_for_loopback_alone(address: str) -> None:
    with pytest.raises(IdentityError):
        await fetch(address, "")


@contextlib.asynccontextmanager
async def raw_server(answer: bytes, *, keep_open: bool = False) -> AsyncIterator[str]:
    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if keep_open:
            await reader.read()
        writer.close()
        await writer.wait_closed()
        served.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.wait_for(served.wait(), 5)


async def test_a_chunked_answer_is_read() -> None:
    body = json.dumps({"keys": [jwk("ed25519")]}).encode()
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    async with raw_server(chunked) as address:
        assert [key.kid for key in (await Keys().get(KeySource("https://i", address + "/k", ""))).keys] == ["ed25519"]


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"]
)
async def test_what_is_not_http_is_refused(answer: bytes) -> None:
    async with raw_server(answer) as address:
        assert await problem(Keys(), KeySource("https://i", address + "/k", ""))


async def test_a_provider_that_never_finishes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "TIMEOUT_S", 0.2)
    async with raw_server(b"HTTP/1.1 200 OK\r\n", keep_open=True) as address:
        assert "TimeoutError" in await problem(Keys(), KeySource("https://i", address + "/k", ""))


async def test_keys_from_a_file_follow_the_file(tmp_path: Path) -> None:
    file = tmp_path / "bundle.json"
    file.write_text(json.dumps({"keys": [jwk("p256", use="jwt-svid")]}))
    file.chmod(0o644)
    keys, source = Keys(), KeySource("", str(file), "")
    assert [key.kid for key in (await keys.get(source)).keys] == ["p256"]
    file.write_text(json.dumps({"keys": [jwk("ed25519")]}))
    assert [key.kid for key in (await keys.get(source)).keys] == ["ed25519"]
    file.chmod(0o666)
    assert "others may write it" in await problem(keys, source)
    file.chmod(0o644)
    file.write_text("{")
    assert "is not strict JSON" in await problem(keys, source)
    file.unlink()
    assert "no such file" in await problem(keys, source)


async def test_sources_that_no_workload_needs_are_forgotten(provider: Provider, source: KeySource) -> None:
    keys = Keys()
    await keys.get(source)
    keys.forget_all_but({source})
    assert [row["issuer"] for row in keys.status()] == [provider.issuer]
    keys.forget_all_but(set())
    assert keys.status() == []
