// Package release ties the modules of one release together.
//
// Modules that use internal packages of the root name the constant of their release. Built with the root of another
// release, whose internal packages may differ, they do not compile, and the compiler names the constant that is missing.
package release

// V0_1_0 is the only constant: tools/release gives it the name of the release.
//
//lint:ignore ST1003 the digits of a version need something between them
const V0_1_0 = true
