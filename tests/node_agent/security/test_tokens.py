from __future__ import annotations

import stat
import string
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from node_agent.security.tokens import LASTING, Token, TokenError, TokenRefused, Tokens, fingerprint


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(tmp_path: Path, clock: Clock) -> Tokens:
    return Tokens(tmp_path, clock)


BASE32 = string.ascii_lowercase + "234567"


@given(st.text(BASE32, min_size=24, max_size=24), st.binary(min_size=20, max_size=20))
def test_a_token_is_read_as_it_was_printed(secret: str, pinned: bytes) -> None:
    token = Token(secret, pinned)
    for text in (str(token), f" {token}\n", str(token).upper()):
        assert Token.parse(text) == token
    assert secret not in repr(token)


@example("")
@example("." * 57)
@example("a" * 24 + "." + "a" * 31)
@example("a" * 24 + "." + "a" * 32 + "\n" + "a" * 24)
@example("١" * 24 + "." + "a" * 32)
@given(st.text(string.printable + "é١\u2028\x00", max_size=80))
def test_anything_else_is_no_token_and_is_not_repeated(text: str) -> None:
    with pytest.raises(TokenError) as refusal:
        Token.parse(text)
    assert "\n" not in str(refusal.value)
    assert len(text) < 10 or text not in str(refusal.value)


def test_a_token_holds_for_an_hour(tokens: Tokens, clock: Clock) -> None:
    token = tokens.make()
    tokens.check(token.secret)
    clock.now += LASTING - 1
    tokens.check(token.secret)
    clock.now += 1
    with pytest.raises(TokenRefused, match="expired"):
        tokens.check(token.secret)


def test_setting_the_clock_back_makes_no_token_last_longer(tokens: Tokens, clock: Clock) -> None:
    token = tokens.make()
    clock.now -= 60
    with pytest.raises(TokenRefused, match="expired"):
        tokens.check(token.secret)


def test_a_used_token_is_told_so_also_after_a_restart(tokens: Tokens, clock: Clock, tmp_path: Path) -> None:
    token = tokens.make()
    tokens.use_up()
    for known in (tokens, Tokens(tmp_path, clock)):
        with pytest.raises(TokenRefused, match="has been used already"):
            known.check(token.secret)


def test_who_knows_no_token_makes_none_worthless(tokens: Tokens, tmp_path: Path) -> None:
    token = tokens.make()
    before = (tmp_path / "token.json").stat().st_ino
    for _ in range(20):
        with pytest.raises(TokenRefused) as refusal:
            tokens.check("x" * 24)
        assert refusal.value.reason is None
    tokens.check(token.secret)
    assert (tmp_path / "token.json").stat().st_ino == before


def test_who_does_not_know_the_secret_learns_nothing(tokens: Tokens, clock: Clock) -> None:
    said = set()
    for prepare in (lambda: None, tokens.make, tokens.use_up):
        prepare()
        for secret in ("", "x" * 24, "\ud800", "a" * 256):
            with pytest.raises(TokenRefused) as refusal:
                tokens.check(secret)
            said.add(str(refusal.value))
    assert said == {"refused"}


def test_a_new_token_ends_the_one_before(tokens: Tokens) -> None:
    first, second = tokens.make(), tokens.make()
    assert first.secret != second.secret
    assert first.fingerprint == second.fingerprint
    with pytest.raises(TokenRefused):
        tokens.check(first.secret)
    tokens.check(second.secret)


def test_the_secret_is_not_in_the_files_and_these_are_the_owners_alone(tokens: Tokens, tmp_path: Path) -> None:
    token = tokens.make()
    files = {path.name: path for path in tmp_path.iterdir()}
    assert files.keys() == {".lock", "bootstrap.pem", "token.json"}
    for path in files.values():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert token.secret.encode() not in path.read_bytes()


def test_the_token_names_the_bootstrap_certificate(tokens: Tokens, tmp_path: Path) -> None:
    token, shown = tokens.make(), tokens.make_bootstrap()
    assert token.pins(shown)
    assert token.fingerprint == fingerprint(shown)
    assert not token.pins(Tokens(tmp_path_of_another(tmp_path)).make_bootstrap())


def tmp_path_of_another(tmp_path: Path) -> Path:
    (tmp_path / "another").mkdir()
    return tmp_path / "another"
