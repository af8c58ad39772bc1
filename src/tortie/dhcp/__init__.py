"""DHCP and router advertisements for the guests of this host: one process, driven by the datastore.

    source     what the datastore says of this host's endpoints, their subnets and pools
    served     that, as networks: who gets what; pure
    options    options of users, and which of them may be sent; pure
    render     a network as dnsmasq's configuration; pure
    dnsmasq    one dnsmasq of Debian's for each network, supervised
    taps       the addresses that a guest's link needs on this side
    agent      all of it in a loop
    settings   from neutron.conf, dhcp_agent.ini, the environment

It asks neither Neutron nor a message bus. Which packets may reach dnsmasq at all is the agent's
business (`dataplane.rules.static`): only of endpoints that are served.
"""
