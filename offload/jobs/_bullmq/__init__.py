"""The engine on Redis, with the data of BullMQ: its queues, its scripts, its tools."""
