"""What an operator may do, one module per act: it says what will happen, then does what the command does."""
