"""A fixture with one good file or folder of every form."""

import pytest
from makers import make_forms


@pytest.fixture(scope="session")
def forms(tmp_path_factory):
    return make_forms(tmp_path_factory.mktemp("forms"))
