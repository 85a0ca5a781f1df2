"""PostgreSQL and Redis from wheels, for one machine."""
