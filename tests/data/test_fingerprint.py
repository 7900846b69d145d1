"""The fingerprint sees names, types, values, order and what is missing."""

import hashlib

import duckdb
import pytest

from onerec.data.fingerprint import hash_table


def fingerprint(query: str) -> str:
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE t AS {query}")
        digest = hashlib.sha256()
        hash_table(connection, digest, "t", "k")
        return digest.hexdigest()


BASE = "SELECT * FROM (VALUES (0, 1::INTEGER, 'a', ['x']), (1, NULL, NULL, NULL)) t(k, n, s, l)"


@pytest.mark.parametrize(
    "other",
    [
        BASE.replace("t(k, n,", "t(k, m,"),
        BASE.replace("1::INTEGER", "1::BIGINT"),
        BASE.replace("NULL, NULL, NULL", "0, NULL, NULL"),
        BASE.replace("NULL, NULL, NULL", "NULL, '', NULL"),
        BASE.replace("NULL, NULL, NULL", "NULL, NULL, []"),
        BASE.replace("(0,", "(2,"),
        BASE.replace("['x']", "['x', 'y']"),
    ],
)
def test_every_difference_shows(other: str) -> None:
    assert other != BASE
    assert fingerprint(other) != fingerprint(BASE)


def test_the_order_of_storage_does_not() -> None:
    assert fingerprint(BASE + " ORDER BY k DESC") == fingerprint(BASE)


def test_values_cannot_run_into_each_other() -> None:
    one = "SELECT * FROM (VALUES (0, 'ab'), (1, 'c')) t(k, s)"
    two = "SELECT * FROM (VALUES (0, 'a'), (1, 'bc')) t(k, s)"
    assert fingerprint(one) != fingerprint(two)
