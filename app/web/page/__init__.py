"""Parts that the tabs share: header, selection, picture, table, streams."""
