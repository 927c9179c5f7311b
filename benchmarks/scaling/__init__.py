"""What commands cost, for the capacity model, and the effect of more workers than cores."""
