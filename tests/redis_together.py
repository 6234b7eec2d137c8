"""Has the servers that ``tests.servers_redis`` starts work together."""

from typing import Any

from redis import Redis

from tests.servers_redis import RedisServer


def form_cluster(nodes: list[RedisServer]) -> None:
    """Make three nodes one Cluster, and wait until they know it."""
    clients: list[Any] = [Redis(port=node.port) for node in nodes]
    bounds = [0, 5461, 10923, 16384]
    for number, client in enumerate(clients):
        client.execute_command("CLUSTER ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        if number:
            first = nodes[0]
            client.execute_command("CLUSTER MEET", "127.0.0.1", first.port, first.bus_port)
    for client in clients:
        while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
            pass
        client.close()


def fail_over(watcher: Redis, replica: RedisServer) -> None:
    """Have the Sentinel promote the replica, as soon as it has seen it."""
    with Redis(port=replica.port) as promoted:
        while promoted.info("replication")["master_link_status"] != "up":
            pass
        ask: Any = watcher.execute_command
        ask("SENTINEL FAILOVER", "main")
        while ask("SENTINEL MASTERS")["main"]["port"] != replica.port:
            pass
