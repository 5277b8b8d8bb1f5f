"""Reading, checking and writing instruction data of any format, a record at a time."""
