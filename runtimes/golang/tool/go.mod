module nuclio-processor/golang/tool

go 1.21
