-- The key of an entry begins with its number, then its ledger. Ledgers that are used alike have like numbers: so what a
-- batch adds lies in the few pages of these numbers. By ledger first it lay all over the index, and nearly each entry of
-- large books touched another page, which PostgreSQL logs whole after a checkpoint and has to keep in its cache.
-- Numbers have no gap, so that the entries of a ledger are found by their numbers, one look-up for each.
--
-- While the index is made entries can be read and not added; only the exchange at the end keeps readers out too.
CREATE UNIQUE INDEX entry_by_number ON ledgermill.entry (organization_id, number, ledger_id);
ALTER TABLE ledgermill.entry DROP CONSTRAINT entry_pkey,
    ADD CONSTRAINT entry_pkey PRIMARY KEY USING INDEX entry_by_number;
