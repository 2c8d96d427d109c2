"""What happened: records, tables, the winner."""
