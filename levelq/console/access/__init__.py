"""Who may see and do what: logins, sessions, tokens against forged forms, limits, response headers."""
