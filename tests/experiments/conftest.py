"""The tiny network and the few digits of the commands' tests."""

from tests.cli.conftest import small as small
from tests.cli.conftest import trained as trained
