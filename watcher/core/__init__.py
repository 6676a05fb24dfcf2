"""Pure logic: values and a `now` in, values out. No I/O, no clock, no asyncio, no logging."""
