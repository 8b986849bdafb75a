"""The commands of `fastgw`; each imports what it needs when it is called."""
