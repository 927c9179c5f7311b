"""What dashboards and admin pages read: `status`, `History`, `check`. The commands print the same."""
