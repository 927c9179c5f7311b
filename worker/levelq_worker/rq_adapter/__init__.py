"""What of RQ is used, and what is switched off."""
