"""What an operator may do, one module per kind of act: it says what will happen, then does what the command does."""
