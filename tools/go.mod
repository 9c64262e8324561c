// The versions of the programs that check Petrel. It is not in go.work: there the requirements of these programs
// would raise those of the library, which would then be tested with versions that its users do not get.
module github.com/petrel-mqtt/mqtt/tools

go 1.26.0

tool honnef.co/go/tools/cmd/staticcheck

require (
	github.com/yuin/goldmark v1.8.7
	golang.org/x/mod v0.43.0
	golang.org/x/tools v0.52.0
)

require (
	github.com/BurntSushi/toml v1.4.1-0.20240526193622-a339e1f7089c // indirect
	golang.org/x/exp/typeparams v0.0.0-20231108232855-2478ac86f678 // indirect
	golang.org/x/sync v0.25.0 // indirect
	honnef.co/go/tools v0.8.2 // indirect
)
