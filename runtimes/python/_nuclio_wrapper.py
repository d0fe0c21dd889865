# nuclio-shim-protocol: 2
