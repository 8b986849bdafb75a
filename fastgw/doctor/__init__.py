"""What is wrong with an installation: the findings of `fastgw doctor`."""
