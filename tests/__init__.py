"""The tests of mountwatch."""
