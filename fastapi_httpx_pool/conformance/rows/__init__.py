"""One module for each table; all of them are imported when the rows are asked for."""

__all__ = ()
