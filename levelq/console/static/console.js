// Refreshes parts of a page, writes times in the zone of the reader.
