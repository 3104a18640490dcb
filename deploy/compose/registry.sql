-- Run once, on the first start of PostgreSQL: the schema registry's own database.
CREATE DATABASE registry;
