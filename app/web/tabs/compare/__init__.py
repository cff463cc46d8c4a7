"""The Compare tab and its panels."""
