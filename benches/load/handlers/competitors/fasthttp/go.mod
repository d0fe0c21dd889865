module load-fasthttp

go 1.21

require (
	github.com/nuclio/nuclio-sdk-go v0.5.3
	github.com/valyala/fasthttp v1.58.0
)
