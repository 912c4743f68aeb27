"""The product under test: made on free ports, ended afterwards whatever happens."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.ports import free_port
from tests.product.running import Product

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def make_product(tmp_path: Path) -> Iterator[Callable[..., Product]]:
    """Makes products, each on a free port; ends their processes afterwards."""
    made: list[Product] = []

    def make(extra: str = "") -> Product:
        product = Product(tmp_path / f"data{len(made)}", free_port(), extra)
        made.append(product)
        return product

    yield make
    for product in made:
        for process in product.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait(timeout=100)


@pytest.fixture
def product(make_product: Callable[..., Product]) -> Product:
    """One product, not started."""
    return make_product()
