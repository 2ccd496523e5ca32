; The source was never written.
; expect: read-before-write in launch 0 (kernel main), instruction 0 `allred x0` of ME: byte 0 of the source of x0 was never written
object "allred-undefined" target "mtia-300" hbm 1024 sram 0

entry e0 "main" {
  ranks 2
  input "x" f32 (8) hbm:0
  output "y" f32 (8) hbm:512
  transfer x0 hbm:32 hbm:512 f32 x 8 add peer 0
  code:
    allred x0
    halt
}

weights 0 {
}
