; The message is received before it is sent.
; expect: would-block in launch 0 (kernel main), instruction 0 `recv x0` of ME: no message from 1 ranks before was sent
; expect: not-empty-at-halt: 1 messages from rank 0 to rank 1 are never received
object "recv-before-send" target "mtia-300" hbm 1024 sram 0

entry e0 "main" {
  ranks 2
  input "x" f32 (8) hbm:0
  output "y" f32 (8) hbm:512
  transfer x0 hbm:0 hbm:512 f32 x 8 replace peer 1
  code:
    recv x0
    send x0
    halt
}

weights 0 {
}
