"""What a result is compared with: MobileNets, random networks, files of other tools."""
