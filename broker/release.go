package broker

import "github.com/petrel-mqtt/mqtt/internal/release"

// This module uses internal packages of the root, and so needs the root of the same release.
const _ = release.V0_1_0
