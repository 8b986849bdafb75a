"""Checks of an installation: the findings of `fastgw doctor`."""
