"""The parts that every tab uses: header, selection, picture, table, streams, and the texts in HTML."""
