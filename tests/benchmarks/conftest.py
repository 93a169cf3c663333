"""The tiny network of the commands' tests."""

from tests.cli.conftest import small as small
