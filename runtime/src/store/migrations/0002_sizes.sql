-- Bytes of the bodies, also where they themselves are not kept; none: not known, or not to be kept either.
ALTER TABLE results ADD COLUMN request_bytes BIGINT;
ALTER TABLE results ADD COLUMN answer_bytes BIGINT;
