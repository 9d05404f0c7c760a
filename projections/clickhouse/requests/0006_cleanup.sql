-- Parts that an erasure has replaced must go at once. Otherwise they are looked for every half minute, and every five minutes
-- where little happens. Here for tables that were made without these settings.
ALTER TABLE {db:Identifier}.requests MODIFY SETTING cleanup_delay_period = 1, max_cleanup_delay_period = 2, cleanup_delay_period_random_add = 0
